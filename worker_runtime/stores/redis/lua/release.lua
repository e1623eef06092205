-- Give claimed jobs back as if they had not been claimed.
--
-- ARGV: key for the ids that this worker's kind does not know ('': they are given back for another
--       reason), its time to live (s), then for each job: id, queue, token
local unknown = ARGV[1]
for i = 3, #ARGV, 3 do
  local id, queue = ARGV[i], ARGV[i + 1]
  local lease = 'arq:in-progress:' .. id
  if redis.call('GET', lease) == ARGV[i + 2] then
    redis.call('DEL', lease)
    if redis.call('DECR', 'arq:retry:' .. id) <= 0 then
      redis.call('DEL', 'arq:retry:' .. id)
    else
      redis.call('SET', 'worker-runtime:again:' .. id, '1', 'EX', 88400)
    end
    if unknown ~= '' then
      redis.call('SADD', unknown, id)
      if redis.call('TTL', unknown) < 0 then
        redis.call('EXPIRE', unknown, ARGV[2])
      end
    end
    if redis.call('DEL', 'worker-runtime:idle:' .. queue) == 1 then
      redis.call('PUBLISH', 'worker-runtime:wake:' .. queue, '')
    end
  end
end
