"""File formats that hold arrays: each module reads one of them, trusting nothing in the file.

They know nothing of VGG; ``convert`` knows which arrays each public checkpoint keeps where.
"""
