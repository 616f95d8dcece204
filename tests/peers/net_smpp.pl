#!/usr/bin/perl
# An SMSC on Net::SMPP that does what its standard input says, one JSON object per line, and prints one JSON object per
# PDU that it receives. Argument: how it behaves, as JSON:
#   port       0 for any
#   refuse     {"<command_id of a bind>": command_status}
#   ahead      true: an enquire_link before every bind_resp
# Input: {"pdu": NAME, "sequence_number": N, FIELD: VALUE...} as Net::SMPP knows them, values that begin with hex: are octets;
#        {"raw": HEX}; {"close": 1}
use strict;
use warnings;
use IO::Select;
use JSON::PP;
use Net::SMPP;

$| = 1;
my $behave = decode_json(shift @ARGV);
my $listening = Net::SMPP->new_listen('127.0.0.1', port => $behave->{port}, smpp_version => 0x34)
    or die "no port: $!\n";
report({event => 'listening', port => $listening->sockport});

my %answers = (
    0x00000001 => 'bind_receiver_resp',
    0x00000009 => 'bind_transceiver_resp',
    0x00000004 => 'submit_sm_resp',
    0x00000006 => 'unbind_resp',
    0x00000015 => 'enquire_link_resp',
);
my ($esme, $typed) = (undef, '');
my $select = IO::Select->new($listening, \*STDIN);
while (1) {
    for my $ready ($select->can_read) {
        if ($ready == $listening) {
            $esme = $listening->accept or die "accept: $!\n";
            $esme->set_version(0x34);
            $select->add($esme);
        } elsif ($ready == \*STDIN) {
            sysread(STDIN, $typed, 65536, length $typed) or exit;
            obey(decode_json($1)) while $typed =~ s/\A(.*)\n//;
        } else {
            hear($esme->read_pdu);
        }
    }
}

sub report { print encode_json($_[0]), "\n" }

sub hang_up {
    $select->remove($esme);
    close $esme;
    report({event => 'closed'});
}

sub hear {
    my $pdu = shift or return hang_up();
    my $id = $pdu->{cmd};
    my @fields = qw(system_id password interface_version message_id);
    push @fields, qw(
        service_type source_addr_ton source_addr_npi source_addr dest_addr_ton dest_addr_npi destination_addr esm_class
        protocol_id priority_flag validity_period registered_delivery replace_if_present_flag data_coding
        sm_default_msg_id) if $id == 4;
    report({
        event => 'pdu', command_id => $id, command_status => $pdu->{status}, sequence_number => $pdu->{seq},
        length => 16 + length $pdu->{data},
        map({ defined $pdu->{$_} ? ($_ => $pdu->{$_}) : () } @fields),
        $id == 4 ? (text => unpack 'H*', $pdu->{short_message}) : (),
    });
    my $answer = $answers{$id} or return;
    my $status = $behave->{refuse}{$id} // 0;
    $esme->enquire_link(seq => 77, async => 1) if $behave->{ahead} and $answer =~ /^bind/;
    $esme->$answer(
        seq => $pdu->{seq}, status => $status,
        $answer =~ /^bind/ ? (system_id => 'perl', sc_interface_version => chr 0x34) : (),
        $id == 4 ? (message_id => 'perl-1') : (),
    );
}

sub obey {
    my $order = shift;
    return hang_up() if $order->{close};
    return $esme->syswrite(pack 'H*', $order->{raw}) if defined $order->{raw};
    my $name = delete $order->{pdu};
    my %fields = map { ($_ eq "sequence_number" ? "seq" : $_) => octets($order->{$_}) } keys %$order;
    $esme->$name(%fields, async => 1);
}

sub octets { my $value = shift; return $value =~ /\Ahex:(.*)\z/ ? pack('H*', $1) : $value }
