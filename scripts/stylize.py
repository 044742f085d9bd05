"""Renders a photo in the style of paintings: the same as the console command ``stylejax``.

python scripts/stylize.py photo.jpg painting.jpg -o out.png
"""

import gc

if __name__ == "__main__":  # and not in workers, which import this file but do not run it
    gc.disable()  # what is imported stays, and looking through it takes a sixth of a second

from stylejax.cli import run

if __name__ == "__main__":
    run()
