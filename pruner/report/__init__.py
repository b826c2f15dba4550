"""What plans and prunes print, and what past prunes did."""
