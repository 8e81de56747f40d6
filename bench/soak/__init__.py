"""Mixed traffic for an hour, with every answer checked and everything that could grow watched."""
