"""Runs as jobs of a SLURM cluster, handed over by submitit."""

import os

# submitit reads it once, when it is imported, where jobs are handed over and where they run.
# USR2, its default, means something else to some libraries; the handler on the node expects USR1.
os.environ["SUBMITIT_PREEMPT_SIGNAL"] = "USR1"
