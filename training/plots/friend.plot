# Someone lonely finds a friend.
cast: solo
lesson: [a smile can make a friend|a new friend may be just around the corner|everyone needs a friend|it is brave to say hello]

<home> But {hero.he} had no [one to play with|friends yet|brother or sister]. {Hero.he} felt [lonely|alone|a little sad].
<home> {Hero.he} had just moved to a new [home|place]. {Hero.he} did not know anyone [there|].
<here> {Hero.he} wanted to {hobby2}, but there was nobody to play with. {Hero.he} felt [lonely|alone|a little sad].
<here> {Hero.he} saw the others play together. "I wish I had a friend," {hero.he} thought.

[<daystart>|Then], {hero} [heard a small voice|saw someone {spot}|heard a sound {spot}]. It was {friend.intro}. 
<daystart>, {hero} met {friend.intro}. {Friend.he} was sitting {spot}[, all alone|].
[Then|Suddenly], {friend.intro} came [around the corner|out of the bushes|down the path]. {Friend.he} had {toy.a}.
[Then|Soon], {hero.he} saw {friend.intro} {spot}. {Friend.he} looked lonely too.

At first, {hero} was shy. [{Hero.he} hid {spot2}|{Hero.he} looked at the ground|{Hero.he} did not know what to say]. [Then {hero.he} took a deep breath|But {hero.he} wanted a friend so much].
{Hero} was a little [shy|scared|nervous]. But {friend} smiled at {hero.him}.
?

"Hello," said {hero} <softly>. "[What is your name|Do you want to play|May I sit with you|Will you be my friend]?"
"Hi! I am {friend.name}," said {friend}. "Who are you?" "I am {hero.name}," said {hero}.
"Do you want to play with me?" asked {hero}. "[Yes|Oh yes|I would love to]!" said {friend} <loudly>.
"What are you doing?" asked {hero}. "I am waiting for a friend," said {friend}. "Maybe I am waiting for you!"

--
They [played|had fun] all [day|afternoon|morning] long. They {hobby2.past} and [laughed|sang|told jokes].
{Friend} showed {hero} [how to {skill}|a secret place {spot3}|{friend.his} {toy.bare}]. {Hero} showed {friend} {hero.his} {thing.bare}.
First they {hobby2.past}. Then they {hobby3.past}. [It was so much fun|They laughed a lot|Time flew by].
{Friend} liked to {hobby2} too! So they {hobby2.past} together until [it got late|the sun went down|they were tired].
They shared {food.a} and talked about [the sea|the moon|their families|their dreams|their favorite colors].

[When it got dark|When it was time to go|At the end of the day], {friend} asked, "[Will you come back tomorrow|Can we play again|Are we friends now]?" "[Yes, of course|Of course|Every day, if you like]!" said {hero}.
"I had so much fun," said {hero}. "[Let us meet again tomorrow|You are my best friend|I am glad I met you]." "Me too," said {friend}.
?

{Hero} was not lonely anymore.
From that day on, {hero} and {friend} [were best friends|met every day {place2.in}|played together every day].
{Hero} went home <loudly>. "[I have a friend|I made a new friend]!" {hero.he} told {grown}. {Grown} was <happy> too.
<moral>
<moral>
