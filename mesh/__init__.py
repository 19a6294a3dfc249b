"""What makes the services a mesh: it serves all of them and knows none of them."""
