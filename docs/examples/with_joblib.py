import joblib

import hookpool.joblib

hookpool.joblib.register()

doubled = joblib.Parallel(n_jobs=2, backend="hookpool")(
    joblib.delayed(lambda x: x * 2)(i) for i in range(5)
)
print(doubled)  # -> [0, 2, 4, 6, 8]
