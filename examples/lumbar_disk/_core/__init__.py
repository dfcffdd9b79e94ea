"""Ground floor of the study, private to it: files, processes that share work, drawing."""
