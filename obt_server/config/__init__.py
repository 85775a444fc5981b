"""The server's settings: schema, loading, and what is shown of them. The agent's loader reads them."""
