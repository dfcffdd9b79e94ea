"""Ground floor of the library: what every room stands on. Private."""
