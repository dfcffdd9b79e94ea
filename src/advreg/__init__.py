"""advreg."""
