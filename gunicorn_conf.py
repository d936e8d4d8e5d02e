"""gunicorn -c gunicorn_conf.py app:app: all workers share one segment.

Only hooks are set here. Address, worker class and number of workers stay yours, on the command line or below;
a hook you define above the last line is called as well, after the one it is chained to.
"""

from hypern_realtime_shm.gunicorn import install

install(globals())
