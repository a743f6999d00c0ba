"""Language models: shapes, non-negative weights, training and perplexity."""

from transformers.utils import logging

# a bar for every file that is loaded drowns ours
logging.disable_progress_bar()  # type: ignore[no-untyped-call]
