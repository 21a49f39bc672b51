"""A phone: Exchange ActiveSync ([MS-ASHTTP], [MS-ASCMD], WBXML as in [MS-ASWBXML]). A part of `in_client.py`."""

import base64
import http.client
import ssl
import time

SYNC, PROVISION, FOLDERS, MAIL, BODY = 0, 14, 7, 2, 17
INBOX = "2"  # the type of the folder, [MS-ASCMD] 2.2.3.170.3


def encode(tree):
    """WBXML of (page, token, content), where content is text, a list of such, or None for an empty element."""
    out, page = bytearray(b"\x03\x01\x6a\x00"), [0]

    def put(node):
        node_page, token, content = node
        if node_page != page[0]:
            out.extend((0x00, node_page))
            page[0] = node_page
        if content is None:
            out.append(token)
            return
        out.append(token | 0x40)
        if isinstance(content, str):
            out.extend(b"\x03" + content.encode() + b"\x00")
        else:
            for child in content:
                put(child)
        out.append(0x01)

    put(tree)
    return bytes(out)


def decode(data):
    """WBXML as a list of (path, text), each path a tuple of (page, token)."""
    found, path, page, at = [], [], 0, 4
    while at < len(data):
        byte = data[at]
        at += 1
        if byte == 0x00:
            page = data[at]
            at += 1
        elif byte == 0x01:
            path.pop()
        elif byte == 0x03:
            end = data.index(b"\x00", at)
            found.append((tuple(path), data[at:end].decode()))
            at = end + 1
        elif byte == 0xC3:  # opaque: a length of seven bits a byte, then as many bytes
            length = 0
            while True:
                length = length << 7 | data[at] & 0x7F
                at += 1
                if not data[at - 1] & 0x80:
                    break
            found.append((tuple(path), data[at : at + length].decode(errors="replace")))
            at += length
        else:
            path.append((page, byte & 0x3F))
            if not byte & 0x40:
                path.pop()
    return found


def texts(said, page, token):
    return [text for path, text in said if path[-1] == (page, token)]


class Phone:
    def __init__(self, host, user, password, device):
        self.host, self.user, self.device, self.policy = host, user, device, "0"
        word = base64.b64encode(f"{user}:{password}".encode()).decode()
        self.headers = {"Authorization": f"Basic {word}", "MS-ASProtocolVersion": "14.1"}
        self.headers["Content-Type"] = "application/vnd.ms-sync.wbxml"

    def ask(self, command, tree):
        connection = http.client.HTTPSConnection(self.host, timeout=60, context=ssl.create_default_context())
        path = (
            f"/Microsoft-Server-ActiveSync?Cmd={command}&User={self.user}&DeviceId={self.device}&DeviceType=SmartPhone"
        )
        connection.request("POST", path, encode(tree), {**self.headers, "X-MS-PolicyKey": self.policy})
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        if answer.status != 200:
            raise OSError(f"{command}: {answer.status} {answer.reason}: {data[:200]!r}")
        return decode(data) if data else []

    def provision(self):
        kind = (PROVISION, 0x08, "MS-EAS-Provisioning-WBXML")
        said = self.ask("Provision", (PROVISION, 0x05, [(PROVISION, 0x06, [(PROVISION, 0x07, [kind])])]))
        key = texts(said, PROVISION, 0x09)
        if key:  # acknowledge the policy, and use its final key from now on
            policy = [kind, (PROVISION, 0x09, key[0]), (PROVISION, 0x0B, "1")]
            said = self.ask("Provision", (PROVISION, 0x05, [(PROVISION, 0x06, [(PROVISION, 0x07, policy)])]))
            self.policy = texts(said, PROVISION, 0x09)[0]
        return texts(said, PROVISION, 0x0B)

    def folders(self):
        said = self.ask("FolderSync", (FOLDERS, 0x16, [(FOLDERS, 0x12, "0")]))
        return list(zip(*(texts(said, FOLDERS, token) for token in (0x08, 0x07, 0x0A)), strict=True))

    def sync(self, folder, key, *options):
        collection = [(SYNC, 0x0B, key), (SYNC, 0x12, folder), *options]
        said = self.ask("Sync", (SYNC, 0x05, [(SYNC, 0x1C, [(SYNC, 0x0F, collection)])]))
        return (texts(said, SYNC, 0x0B) or [key])[0], texts(said, MAIL, 0x14)


def phone(host, user, password, device, wanted, within_s):
    """A phone that provisions itself, asks for the folders, and syncs the inbox until a certain mail is there."""
    own = Phone(host, user, password, device)
    policy, folders = own.provision(), own.folders()
    inbox = next(server_id for server_id, _, kind in folders if kind == INBOX)
    plain = (SYNC, 0x17, [(SYNC, 0x18, "0"), (BODY, 0x05, [(BODY, 0x06, "1")])])
    key, subjects = own.sync(inbox, "0")[0], []
    deadline = time.monotonic() + within_s
    while wanted not in subjects and time.monotonic() < deadline:
        key, more = own.sync(inbox, key, (SYNC, 0x1E, "1"), (SYNC, 0x13, "1"), (SYNC, 0x15, "50"), plain)
        subjects += more
    return {"policy": policy, "folders": [name for _, name, _ in folders], "subjects": subjects}
