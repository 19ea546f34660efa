"""How Git reaches other machines: its settings for HTTP and SSH, and whom it asks for passwords."""
