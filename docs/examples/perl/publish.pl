# Publish one message; print how many copies were queued.
use strict;
use warnings;
use Gearman::Client;
use JSON::PP;

my $client = Gearman::Client->new(job_servers => ['localhost:4730']);
my $copies = $client->do_task(
    fanout => encode_json({ topic => 'news', payload => 'hello', background => 1 }),
    { on_warning => sub { warn ${ $_[0] }, "\n" } },
) or die "not published\n";
print "copies: $$copies\n";
