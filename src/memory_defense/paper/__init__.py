"""The reproduction of the paper: its tables, figures and the GPU queue. Nothing else imports it."""
