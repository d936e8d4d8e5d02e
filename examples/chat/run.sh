#!/bin/sh
# Starts the chat on 4 gunicorn workers and says what to try.
# PORT (8000), WORKERS (4) and PYTHON (python3) may be set; further arguments go to gunicorn.
set -eu
cd "$(dirname "$0")/../.."
port="${PORT:-8000}"
workers="${WORKERS:-4}"

cat <<EOF

  The chat runs at  http://127.0.0.1:$port/  on $workers gunicorn workers that share one segment in /dev/shm.

  Try this:
    - Open it in two or three tabs. Each tab's stream stays on one worker (named at the top of the page).
    - Talk. On every message and every member is the pid of the worker that took it: they differ, the room is one.
    - kill -9 one of those workers: its members leave within a second, come back on another worker, the rest stay.
    - kill -HUP $$ : every worker is replaced, rooms stay.
    - Ctrl-C stops it; the segment goes with the last process.

EOF
# Without keep-alive every message is a new connection, so that it lands on whichever worker is free first.
exec "${PYTHON:-python3}" -m gunicorn --config gunicorn_conf.py --bind "127.0.0.1:$port" --workers "$workers" \
    --worker-class gthread --threads 32 --keep-alive 0 --graceful-timeout 5 "$@" examples.chat.app:app
