//! What is asked of and done on hosts that exist, as shell scripts for any POSIX shell.

/// Prints what a host is, and whose; needs no root. `$1` is the owner's file, `$2` that of data that was kept.
pub(super) const PROBE: &str = r#"echo "machine $(uname -m)"
echo "reached $(printf %s "$SSH_CONNECTION" | cut -d' ' -f3)"
echo "name $(cat /proc/sys/kernel/hostname)"
echo "os $(. /etc/os-release 2>/dev/null; echo "$ID ${VERSION_ID:-}")"
[ -d /run/systemd/system ] && echo systemd
for u in kafka-server zookeeper-server; do [ -e /etc/systemd/system/$u.service ] && echo "unit $u.service"; done
for a in kafka zookeeper; do id -u $a >/dev/null 2>&1 && echo "account $a"; done
[ -e "$1" ] && echo "owner $(head -c 4096 "$1" | head -n 1)"
[ -e "$2" ] && echo "kept $(head -c 4096 "$2" | head -n 1)"
echo end"#;

/// Writes the owner's file unless there is one: `$1` is the file, `$2` its content. Says whose host it is then.
pub(super) const CLAIM: &str = r#"set -e; umask 022; d=$(dirname "$1")
if [ -L "$d" ]; then echo "$d is a link; refusing to follow it" >&2; exit 1; fi
mkdir -p "$d"; chown 0:0 "$d"; chmod 0755 "$d"
t=$(mktemp "$d/.owner.XXXXXXXX"); printf '%s\n' "$2" > "$t"; chmod 0644 "$t"
ln "$t" "$1" 2>/dev/null || :
rm -f "$t"; sync "$1" 2>/dev/null || sync
head -n 1 "$1""#;

/// Replaces the owner's file.
pub(super) const REWRITE: &str = r#"set -e; umask 022; d=$(dirname "$1")
t=$(mktemp "$d/.owner.XXXXXXXX"); printf '%s\n' "$2" > "$t"; chmod 0644 "$t"; mv -fT "$t" "$1"; sync "$1" 2>/dev/null || sync"#;

/// Lists what Septet installed: a kind and a path or name a line. `$1` are the accounts that were there before, `$2` data directories.
pub(super) const LIST: &str = r#"say() { for p in "$@"; do if [ -e "$p" ] || [ -L "$p" ]; then printf '%s %s\n' "$k" "$p"; fi; done; }
k=service; for u in kafka-server zookeeper-server septet-names septet-data; do say /etc/systemd/system/$u.service; done
k=names; grep -q '^# BEGIN septet' /etc/hosts && echo "names /etc/hosts"
k=program; say /opt/septet /opt/kafka /opt/kafka_2.13-*
[ -r /var/lib/septet/java ] && head -c 4096 /var/lib/septet/java | while read -r j; do case "$j" in /opt/*/*|*..*) ;; /opt/?*) say "$j";; esac; done
for f in /usr/local/bin/kafka-*.sh; do grep -qs -i septet "$f" && say "$f"; done
k=configuration; say /etc/septet
k=account; for a in kafka zookeeper; do case " $1 " in *" $a "*) ;; *) id -u $a >/dev/null 2>&1 && echo "account $a";; esac; done
k=data; for d in $2; do [ -d "$d" ] && [ -n "$(ls -A "$d" 2>/dev/null)" ] && echo "data $d"; done
k=state; say /var/lib/septet /var/log/kafka
echo end"#;

/// Removes one thing of a kind: `$1` is the kind, `$2` the path or name, `$3` the host's name before.
pub(super) const REMOVE: &str = r#"set -e
case "$1" in
service) u=$(basename "$2"); systemctl disable --now "$u" >/dev/null 2>&1 || :; rm -f "$2"; systemctl daemon-reload; systemctl reset-failed "$u" >/dev/null 2>&1 || :;;
names) t=$(mktemp /etc/.hosts.XXXXXXXX); sed '/^# BEGIN septet/,/^# END septet/d' /etc/hosts > "$t"; cat "$t" > /etc/hosts; rm -f "$t"
  if [ -n "$3" ]; then printf '%s\n' "$3" > /etc/hostname; hostname "$3"; fi;;
account) userdel "$2" 2>/dev/null || :; groupdel "$2" 2>/dev/null || :; ! id -u "$2" >/dev/null 2>&1;;
program|configuration|state|data) rm -rf -- "$2";;
esac"#;
