-- Write how attempts ended, each only if its worker still holds the job.
--
-- ARGV: now (ms), then one packed text, eleven for each: id, queue, token, tries, again ('' ended,
--   else the next score in ms, '=' the old one), tries from now on, crashes so far, result ('' none),
--   its time to live (ms, '0' for ever), how long the job still counts as in progress (ms), '1'
--   where an earlier try to write this may have succeeded
-- Returns, for each: 1 written, 0 not ours any more.
local answer, now, packed = {}, tonumber(ARGV[1]), ARGV[2]
local has_aborts = redis.call('EXISTS', 'arq:abort') == 1

local function again(f, lease)
  local id, queue, score = f[1], f[2], f[5]
  local job, retry = 'arq:job:' .. id, 'arq:retry:' .. id
  redis.call('DEL', lease)
  if score == '=' then
    score = redis.call('ZSCORE', queue, id) or '0'
  end
  redis.call('ZADD', queue, 'XX', score, id)
  -- The job's own time to live was counted from its enqueue: a job retried late would vanish.
  local left, ttl_min = redis.call('PTTL', job), tonumber(score) - now + 86400000
  if left > 0 and left < ttl_min then
    redis.call('PEXPIRE', job, string.format('%.0f', ttl_min))
  end
  if f[6] == '0' then
    redis.call('DEL', retry)
    -- The counter no longer tells: a job that has begun does not expire.
    redis.call('SET', 'worker-runtime:begun:' .. id, '1', 'PX',
      string.format('%.0f', math.max(left, ttl_min)))
  else
    redis.call('SET', retry, f[6], 'EX', 88400)
    redis.call('SET', 'worker-runtime:again:' .. id, '1', 'EX', 88400)
    if f[7] ~= '0' then
      redis.call('SET', 'worker-runtime:crashes:' .. id, f[7], 'EX', 88400)
    end
  end
  if redis.call('DEL', 'worker-runtime:idle:' .. queue) == 1 then
    redis.call('PUBLISH', 'worker-runtime:wake:' .. queue, '')
  end
end

local function ended(f, lease)
  local id, result, ttl, hold = f[1], f[8], f[9], f[10]
  -- Deletions first: after them Redis admits the write of the result also when memory is full.
  local gone = {'arq:job:' .. id, 'arq:retry:' .. id, 'worker-runtime:progress:' .. id,
    'worker-runtime:crashes:' .. id, 'worker-runtime:begun:' .. id}
  if hold == '0' then
    gone[#gone + 1] = lease
  else
    redis.call('PEXPIRE', lease, hold)
  end
  redis.call('DEL', unpack(gone))
  redis.call('ZREM', f[2], id)
  if has_aborts then
    redis.call('ZREM', 'arq:abort', id)
  end
  if result ~= '' then
    if ttl == '0' then
      redis.call('SET', 'arq:result:' .. id, result)
    else
      redis.call('SET', 'arq:result:' .. id, result, 'PX', ttl)
    end
  end
end

local at = 1
while at <= #packed do
  local f = {}
  for n = 1, 11 do
    f[n], at = struct.unpack('<I4c0', packed, at)
  end
  local id, queue, token, tries = f[1], f[2], f[3], f[4]
  local lease = 'arq:in-progress:' .. id
  local holder = redis.call('GET', lease)
  -- A lease that ran out while nobody else took the job is still ours: the tries tell.
  local ours = holder == token or (not holder and redis.call('GET', 'arq:retry:' .. id) == tries
    and redis.call('ZSCORE', queue, id))
  if not ours then
    local is_gone = f[11] == '1' and not redis.call('ZSCORE', queue, id)
    answer[#answer + 1] = is_gone and 1 or 0
  else
    if f[5] == '' then
      ended(f, lease)
    else
      again(f, lease)
    end
    answer[#answer + 1] = 1
  end
end
return answer
