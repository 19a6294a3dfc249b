"""What each seller is owed, pending, available and reserved."""
