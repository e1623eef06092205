-- Renew the leases of running jobs. A lease that ran out unnoticed is taken again if nobody else has.
--
-- ARGV: lease (ms), then one packed text, four for each job: id, queue, token, tries
-- Returns the ids of the jobs that somebody else holds or has ended. One that another claim of the
-- same process has taken is not lost: that claim's answer is on its way.
local lost = {}
local function owner(text)
  return text and string.match(text, '^(.*):')
end
local packed, at = ARGV[2], 1
while at <= #packed do
  local id, queue, token, tries
  id, queue, token, tries, at = struct.unpack('<I4c0I4c0I4c0I4c0', packed, at)
  local lease = 'arq:in-progress:' .. id
  local holder = redis.call('GET', lease)
  if holder == token then
    redis.call('PEXPIRE', lease, ARGV[1])
  elseif not holder and redis.call('GET', 'arq:retry:' .. id) == tries
    and redis.call('ZSCORE', queue, id) then
    redis.call('SET', lease, token, 'PX', ARGV[1])
  elseif not holder or owner(holder) ~= owner(token) then
    lost[#lost + 1] = id
  end
end
return lost
