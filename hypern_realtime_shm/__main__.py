"""``python -m hypern_realtime_shm``: the same as ``hypern-shm``."""

from .cli import main

if __name__ == "__main__":
    main()
