"""payment_svc over real gRPC on a real PostgreSQL, its callees played."""
