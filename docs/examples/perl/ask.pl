# Ask all hosts that subscribed to "news", and print what each answered within 5 seconds.
use strict;
use warnings;
use Gearman::Client;
use JSON::PP;

my %question
    = (topic => 'news', payload => 'who is there?', receipt => JSON::PP::true, timeout => 5);
my $client = Gearman::Client->new(job_servers => ['localhost:4730']);
my $text   = $client->do_task(
    fanout => encode_json(\%question),
    { on_warning => sub { warn ${ $_[0] }, "\n" } },
) or die "not asked\n";
my $receipt = decode_json($$text);
print "$_: $receipt->{results}{$_}\n"       for sort keys %{ $receipt->{results} };
print "$_ failed: $receipt->{failed}{$_}\n" for sort keys %{ $receipt->{failed} };
print "$_ did not answer\n"                 for @{ $receipt->{pending} };
