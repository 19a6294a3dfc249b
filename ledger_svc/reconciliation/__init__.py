"""Settlement: what a PSP's or a bank's files say, against what the ledger booked."""
