"""What Threadmark costs, beside raw `sqlite3` writing and reading the same rows.

    python -m benchmarks            # everything, about three minutes
    python -m benchmarks save read  # some of it
    python -m benchmarks --json     # for machines

Figures are CPU time of the process (`time.process_time`), which a busy machine disturbs least; the ratio
of two figures of one run says more than either.
"""
