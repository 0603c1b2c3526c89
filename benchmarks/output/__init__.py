"""What studies write: tables, figures, where a result comes from, and parts that a stopped run resumes from."""
