"""The schema of executor_svc, step by step."""
