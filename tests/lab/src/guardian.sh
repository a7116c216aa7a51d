# The lab's guardian: the only one who cleans up, so that there is one way to do it and it is always used.
#
# Standard input is a pipe whose other end only the lab's process holds. While it is open, lines tell what
# belongs to the lab; end of file means that the lab is over or was killed, whichever way, and all of it goes.
#   net PID        the network namespace of PID: whoever is in it is the lab's
#   cgroup PATH    a cgroup: whoever is in it is the lab's
#   dir PATH       a directory below /run
# Each line is answered with "ok". After cleaning, what could not be removed is printed, else nothing.
# Namespaces and mounts have no names: they go with their last process and with this shell.
set -u
# Whoever would read the answers may be dead, and that is when this shell is needed most.
trap '' PIPE
declare -A netns=()
cgroups=() dirs=()
while read -r kind value; do
  case $kind in
    net)
      # Holding the namespace open keeps its inode number from being given to somebody else's.
      exec {fd}<"/proc/$value/ns/net" && netns[$(stat -Lc %i "/proc/self/fd/$fd")]=1 ;;
    cgroup) cgroups+=("$value") ;;
    dir) dirs+=("$value") ;;
  esac
  echo ok
done

members() {
  local inode path group
  while read -r inode path; do
    [[ -n ${netns[$inode]:-} ]] && path=${path#/proc/} && echo "${path%%/*}"
  done < <(stat -Lc '%i %n' /proc/[0-9]*/ns/net 2>/dev/null)
  for group in "${cgroups[@]}"; do cat "$group/cgroup.procs" 2>/dev/null; done
}

# Twice empty in a row: a process may have been on its way into a namespace at the first look.
empty=0
for _ in {1..200}; do
  pids=$(members | sort -u)
  if [[ -z $pids ]]; then
    empty=$((empty + 1))
    [[ $empty -ge 2 ]] && break
  else
    empty=0
    # shellcheck disable=SC2086  # one word per process
    kill -KILL $pids 2>/dev/null
  fi
  sleep 0.05
done
for pid in $(members | sort -u); do echo "left: process $pid ($(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null))"; done

for group in "${cgroups[@]}"; do
  for _ in {1..40}; do rmdir "$group" 2>/dev/null || [[ ! -d $group ]] && break; sleep 0.05; done
  [[ -d $group ]] && echo "left: cgroup $group"
done
for dir in "${dirs[@]}"; do
  rm -rf --one-file-system -- "$dir"
  [[ -e $dir ]] && echo "left: $dir"
  rmdir -- "${dir%/*}" 2>/dev/null # the labs' common parent, if this was the last
done
exit 0
