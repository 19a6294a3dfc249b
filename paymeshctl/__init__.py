"""The command line `paymesh`: it speaks RPCs and nothing else."""
