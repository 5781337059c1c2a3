from dataclasses import dataclass
from enum import Enum

from hookpool import HookPoolExecutor


class Color(Enum):
    RED = 1
    BLUE = 2


@dataclass
class Point:
    x: int
    y: int
    color: Color = Color.RED

    def moved(self, by):
        return type(self)(self.x + by, self.y + by, Color.BLUE)


with HookPoolExecutor(max_workers=2) as pool:
    points = list(pool.map(lambda n: Point(n, n).moved(10), range(2)))
    again = pool.submit(lambda p: p.moved(1), points[0]).result()

print(points[0])  # -> Point(x=10, y=10, color=<Color.BLUE: 2>)
print(isinstance(again, Point), again == Point(11, 11, Color.BLUE))  # -> True True
print(again.color is Color.BLUE)  # -> True
