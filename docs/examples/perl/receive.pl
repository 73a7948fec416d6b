# Subscribe as "carol", then receive until stopped.
use strict;
use warnings;
use Gearman::Client;
use Gearman::Worker;
use JSON::PP;

$| = 1;
my @servers = ('localhost:4730');

my $client = Gearman::Client->new(job_servers => \@servers);
$client->do_task(
    subscribe_fanout => encode_json({ topic => 'news', client_id => 'carol' }),
    { on_warning => sub { warn ${ $_[0] }, "\n" } },
) or die "not subscribed\n";

my $worker = Gearman::Worker->new(job_servers => \@servers);
$worker->register_function(
    news_carol => sub {
        my $job = shift;
        print 'carol received ', $job->arg, "\n";
        return 'thanks from carol';
    }
);
$worker->work while 1;
