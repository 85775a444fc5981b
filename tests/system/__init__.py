"""The seam between our code and the system it runs on."""
