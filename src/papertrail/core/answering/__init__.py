"""From a question to its answer: what stands, who computes, where; reuse, resume or compute."""
