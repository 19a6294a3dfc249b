"""The server and the channel of the mesh, with services whose behaviour the tests script."""
