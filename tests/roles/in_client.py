"""What a user's programs do, run in the client guest: `in_client.py VERB` with the arguments as JSON on standard input.

Its answer is JSON on standard output: {"result": …}, or {"error": …, "kind": …} for what a program would show its user.
Every connection checks the server's certificate against what the client trusts. With `at`, the host is at that address.
"""

import base64
import imaplib
import json
import poplib
import smtplib
import socket
import ssl
import sys
import time

from phone import phone

TRUST = ssl.create_default_context()
TIMEOUT_S = 30


def lead(host, address):
    """Let a name stand for one address, as a line in the hosts file would; an empty one leaves that to DNS."""
    ask = socket.getaddrinfo
    socket.getaddrinfo = lambda name, *more, **how: ask(address if name == host and address else name, *more, **how)


def send(host, sender, password, to, subject, body="hello", login=None, port=587):
    with smtplib.SMTP(host, port, timeout=TIMEOUT_S) as smtp:
        if password:
            smtp.starttls(context=TRUST)
            smtp.login(login or sender, password)
        message = f"From: {sender}\r\nTo: {', '.join(to)}\r\nSubject: {subject}\r\n\r\n{body}\r\n"
        refused = smtp.sendmail(sender, to, message)
        return {address: [code, text.decode()] for address, (code, text) in refused.items()}


def login_in_clear(host, user, password):
    imap = imaplib.IMAP4(host, timeout=TIMEOUT_S)
    return imap.login(user, password)[0]


def imap_subjects(host, user, password, wanted="", within_s=0, sender=""):
    """The subjects in the inbox, once `wanted` is among them or the time is over."""
    deadline = time.monotonic() + within_s
    while True:
        with imaplib.IMAP4_SSL(host, ssl_context=TRUST, timeout=TIMEOUT_S) as imap:
            imap.login(user, password)
            imap.select("INBOX", readonly=True)
            found = [subject(imap, number, sender) for number in imap.search(None, "ALL")[1][0].split()]
        found = [text for text in found if text]
        if any(wanted in text for text in found) or time.monotonic() >= deadline:
            return found
        time.sleep(0.5)


def subject(imap, number, sender):
    header = imap.fetch(number, "(BODY[HEADER.FIELDS (SUBJECT FROM)])")[1][0][1].decode()
    fields = dict(line.split(": ", 1) for line in header.split("\r\n") if ": " in line)
    return fields.get("Subject", "") if sender in fields.get("From", "") else None


def imap_quota(host, user, password):
    with imaplib.IMAP4_SSL(host, ssl_context=TRUST, timeout=TIMEOUT_S) as imap:
        imap.login(user, password)
        return imap.getquotaroot("INBOX")[1][1][0].decode()


def pop3_subjects(host, user, password):
    pop = poplib.POP3_SSL(host, context=TRUST, timeout=TIMEOUT_S)
    pop.user(user)
    pop.pass_(password)
    lines = [line.decode() for number in range(1, pop.stat()[0] + 1) for line in pop.top(number, 0)[1]]
    pop.quit()
    return [line.removeprefix("Subject: ") for line in lines if line.startswith("Subject: ")]


def sieve(host, user, password, script):
    """Put a script and make it the active one over ManageSieve (RFC 5804); an empty one turns it off."""
    plain = socket.create_connection((host, 4190), TIMEOUT_S)
    file = plain.makefile("rb")
    answer(file)
    plain.sendall(b"STARTTLS\r\n")
    answer(file)
    with TRUST.wrap_socket(plain, server_hostname=host) as secure:
        file = secure.makefile("rb")
        answer(file)
        word = base64.b64encode(f"\0{user}\0{password}".encode()).decode()
        commands = [f'AUTHENTICATE "PLAIN" "{word}"', 'SETACTIVE ""']
        if script:
            commands[1:] = [f'PUTSCRIPT "away" {{{len(script)}+}}\r\n{script}', 'SETACTIVE "away"']
        for command in commands:
            secure.sendall(f"{command}\r\n".encode())
            answer(file)


def answer(file):
    while True:
        line = file.readline().decode()
        if line.startswith("OK"):
            return
        if not line or line.startswith(("NO", "BYE")):
            raise OSError(f"ManageSieve: {line.strip() or 'the server hung up'}")


VERBS = {verb.__name__: verb for verb in (send, login_in_clear, imap_subjects, imap_quota, pop3_subjects, sieve, phone)}

if __name__ == "__main__":
    asked = json.load(sys.stdin)
    lead(asked["host"], asked.pop("at", ""))
    try:
        print(json.dumps({"result": VERBS[sys.argv[1]](**asked)}))
    except (OSError, imaplib.IMAP4.error, poplib.error_proto, smtplib.SMTPException) as error:
        print(json.dumps({"error": str(error), "kind": type(error).__name__}))
