"""Renders a photo in the style of paintings: the same as the console command ``stylejax``.

python scripts/stylize.py photo.jpg painting.jpg -o out.png
"""

from stylejax.cli import run

if __name__ == "__main__":
    run()
