"""Who is here, and who may use what is cached: leases, changes, and telling the peers of them."""
