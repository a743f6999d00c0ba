"""A tracking server of one's own: PostgreSQL, an S3 store and MLflow, started and kept alive."""
