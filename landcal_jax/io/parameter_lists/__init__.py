"""Lists of parameters as model centres keep them: `reading` and `writing` are the two doors, the others one format each."""
