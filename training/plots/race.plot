# A race; the slow one or the kind one wins in the end.
cast: duo
lesson: [winning is not the most important thing|being kind is better than winning|slow and steady can win|it is not nice to brag]

<duo-here> "[I am the fastest|I can run faster than you|Nobody is as fast as I am]!" said {friend}. "Let us have a race," said {hero}.
<duo> <oneday>, there was a big race {place.in}. Everyone came to watch. {Hero} and {friend} wanted to win.
<duo-here> "[Let us race|I want to race|Let us see who is faster]!" said {hero}. "[Yes|All right|Good]," said {friend}. "To the [old tree|big rock|gate|bridge]!"

"One, two, three, go!" {Friend} ran [very fast|like the wind|as fast as the wind]. {Hero} was [slow|much slower|far behind].
They stood side by side. {Guide.first} [called|shouted], "[Ready, set, go|On your marks, get set, go]!" Off they ran!
The race began. {Hero} ran [fast|well]. {Friend} ran [even faster|right behind {hero.him}]. 

[Suddenly|Halfway|Then], {friend} [fell down|stepped on a thorn|tripped over a stone|hurt {friend.his} {friend.hand}]. "Ouch!" {friend.he} cried. +fall
{Friend} was so sure to win that {friend.he} stopped to [rest|eat {food.a}|pick some flowers]. Soon {friend.he} was [fast asleep|asleep {spot}]. +nap

{Hero} could [win now|be the first]. But {hero.he} stopped. "[Are you hurt|Are you okay|Can I help you]?" asked {hero}. {Hero.he} helped {friend} up. @fall
{Hero} saw it and stopped at once. "[A friend is more important than a race|I can't leave you here|Don't cry]," {hero.he} said. {Hero.he} [helped {friend.him} up|washed the sore spot]. @fall
{Hero} did not stop. [Step by step|Slowly but surely], {hero.he} went on. {Hero.he} passed {friend} [without a sound|on soft feet]. @nap
{Hero} [walked on and on|kept going|was tired but did not stop]. {Hero.he} did not look back. @nap

--
They [walked|went] to the end together, side by side. They crossed the line at the same time! @fall
So they went on together. [Everyone else was faster|They were the last]. But the others [clapped the loudest for them|cheered for them]. @fall
When {friend} woke up, it was too late. {Hero} was already [at the end|there]! @nap
Then {friend} [woke up|opened {friend.his} eyes] and ran as fast as {friend.he} could. But {hero} was the first! @nap

"You won the race," said {friend}. "No," said {hero}. "[We both won|We won together]." @fall
"Thank you for helping me," said {friend}. "You are a real friend." {Hero} was <happy>. @fall
"[How did you do that?|You beat me!]" said {friend}. "I just did not stop," said {hero} <softly>. @nap
{Friend} was [surprised|ashamed]. "[I am sorry that I bragged|You did well|You are better than I thought]," {friend.he} said. @nap

?
<moral>
<moral>
<moral>
Then they shared {food2.a} and laughed.
They had [a big party|so much fun] that day.
