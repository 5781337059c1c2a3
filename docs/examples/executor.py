from hookpool import HookPoolExecutor

base = 100


def shifted(x):
    return base + x


with HookPoolExecutor(max_workers=2) as pool:
    print(list(pool.map(lambda x: x * 2, range(5))))  # -> [0, 2, 4, 6, 8]
    print(pool.submit(shifted, 7).result())  # -> 107
    base = 200  # a change is seen by the next call
    print(pool.submit(shifted, 7).result())  # -> 207
