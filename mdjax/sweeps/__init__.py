"""A zoo × metrics → a table, whatever happens in between."""
