"""People's own tools into a node, out of band: SSH over a virtio-serial channel, and ports forwarded over that.

A domain has several channels (`SSH_CHANNELS`). One session takes one of them, and the guest agent starts an sshd for it
alone at the other end. So sessions don't know of each other, nothing listens in the guest, and nothing has to be on its
network; what multiplexes (Ansible, forwarded ports) is OpenSSH's own protocol within one session.
"""
