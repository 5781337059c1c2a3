import multiprocessing

import hookpool

model = None


def load():
    global model
    model = {"weight": 3}  # stands for something slow, done once in each worker


def predict(x):
    return model["weight"] * x


with hookpool.HookPoolExecutor(max_workers=2, initializer=load) as pool:
    print(list(pool.map(predict, range(4))))  # -> [0, 3, 6, 9]
    print(list(pool.map(lambda x: predict(x) + 1, range(4))))  # -> [1, 4, 7, 10]

with multiprocessing.get_context("hookpool").Pool(2, initializer=load) as pool:
    print(pool.map(predict, range(4)))  # -> [0, 3, 6, 9]

print(model)  # -> None
