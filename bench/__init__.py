"""Benchmarks: what things cost, as ratios of one run. README.md says how to read them; `python -m bench --list`.

Every comparison takes its sides in turns (A B A B …) in one run, so that whatever slows the machine slows both; the
median of the rounds counts, and its spread stands beside it. A bench is a module here with a function `run`.
"""
