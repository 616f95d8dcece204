// An SMSC on npm's smpp that does what its standard input says, one JSON object per line, and prints one JSON object
// per PDU that it receives. Argument: how it behaves, as JSON:
//   port    0 for any
//   refuse  {"<command_id of a bind>": command_status}
//   first   PDUs that leave in one segment with the bind_resp
// Input: {"pdu": NAME, FIELD: VALUE...} as smpp knows them, texts that begin with hex: are octets; {"raw": HEX}
'use strict';
const readline = require('readline');
const smpp = require('../../.peers/node_modules/smpp');

const behave = JSON.parse(process.argv[2]);
const tell = (what) => process.stdout.write(JSON.stringify(what) + '\n');
let esme = null;

function octets(value) {
    return typeof value === 'string' && value.startsWith('hex:') ? Buffer.from(value.slice(4), 'hex') : value;
}

function obey(order) {
    if (order.raw !== undefined) {
        esme.socket.write(Buffer.from(order.raw, 'hex'));
        return;
    }
    const {pdu, ...fields} = order;
    esme.send(new smpp.PDU(pdu, Object.fromEntries(Object.entries(fields).map(([name, value]) => [name, octets(value)]))));
}

function submitted(pdu) {
    const {udh, message} = pdu.short_message;
    const names = ['service_type', 'source_addr_ton', 'source_addr_npi', 'source_addr', 'dest_addr_ton', 'dest_addr_npi',
        'destination_addr', 'esm_class', 'protocol_id', 'priority_flag', 'registered_delivery', 'replace_if_present_flag',
        'data_coding', 'sm_default_msg_id'];
    const text = Buffer.concat([...(udh ? [Buffer.concat([Buffer.from([Buffer.concat(udh).length]), ...udh])] : []),
        Buffer.from(message)]);
    return {...Object.fromEntries(names.map((name) => [name, pdu[name]])), text: text.toString('hex')};
}

const server = smpp.createServer((session) => {
    esme = session;
    session.on('error', (error) => tell({event: 'error', text: String(error)}));
    session.on('close', () => tell({event: 'closed'}));
    session.on('pdu', (pdu) => {
        tell({
            event: 'pdu', command_id: pdu.command_id >>> 0, command_status: pdu.command_status,
            sequence_number: pdu.sequence_number, length: pdu.command_length, system_id: pdu.system_id,
            password: pdu.password, interface_version: pdu.interface_version, message_id: pdu.message_id,
            ...(pdu.command === 'submit_sm' ? submitted(pdu) : {}),
        });
        if (!['bind_receiver', 'bind_transceiver', 'submit_sm', 'unbind', 'enquire_link'].includes(pdu.command)) {
            return;
        }
        const status = (behave.refuse || {})[pdu.command_id] || 0;
        session.socket.cork();
        session.send(pdu.response({command_status: status, system_id: 'node', message_id: 'node-1'}));
        if (pdu.command.startsWith('bind') && status === 0) {
            (behave.first || []).forEach(obey);
        }
        session.socket.uncork();
    });
});
server.listen(behave.port, '127.0.0.1', () => tell({event: 'listening', port: server.address().port}));
readline.createInterface({input: process.stdin}).on('line', (line) => obey(JSON.parse(line))).on('close', () => process.exit());
