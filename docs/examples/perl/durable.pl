# Subscribe durably as "carol": a message that cannot be processed is delivered again.
use strict;
use warnings;
use Gearman::Client;
use Gearman::Worker;
use JSON::PP;

$| = 1;
my @servers = ('localhost:4730');

my %subscription = (
    topic     => 'orders',
    client_id => 'carol',
    envelope  => JSON::PP::true,    # arguments are JSON with topic, sequence, attempt and payload
    durable   => { timeout => 10, max_attempts => 5 },    # then the message is parked
);
my $client = Gearman::Client->new(job_servers => \@servers);
$client->do_task(
    subscribe_fanout => encode_json(\%subscription),
    { on_warning => sub { warn ${ $_[0] }, "\n" } },
) or die "not subscribed\n";

# Process one order. The first attempt fails, to show what follows.
sub process {
    my ($order, $attempt) = @_;
    die "disk full\n" if $attempt == 1;
    print "carol processed $order in attempt $attempt\n";
}

my $worker = Gearman::Worker->new(job_servers => \@servers);
$worker->register_function(
    orders_carol => sub {
        my $job     = shift;
        my $message = decode_json($job->arg);
        eval { process($message->{payload}, $message->{attempt}); 1 } or do {
            $worker->send_work_warning($job, $@);    # the reason, which describe and parked show
            return;    # a failure: deliver it again, after 2 seconds, then 3, 5, 9 ...
        };
        return 'done';    # acknowledged: the next message may come
    }
);
$worker->work while 1;
