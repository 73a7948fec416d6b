# Print what comes for "alice", until stopped.
gearman -h localhost -p 4730 -w -f news_alice
