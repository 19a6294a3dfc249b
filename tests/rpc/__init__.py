"""Services through real gRPC, with the whole interceptor chain."""
