"""The PSP conformance kit: whether an adapter keeps what the mesh relies on.

`python -m tests.conformance --target host:port`; see docs/conformance.md. It speaks
`paymesh.psp.v1.PspService` alone, so it sees of an adapter what the executor sees.
"""
