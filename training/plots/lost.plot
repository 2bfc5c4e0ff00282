# Something is lost, looked for, and found.
cast: solo
lesson: [it is good to look again|friends help each other|it is always good to ask for help|a calm mind finds more than a hurry]

<here> {Hero.he} had {hero.his} [favorite|new|best] {toy.bare}[ with {hero.him}|].
<home> {Hero.he} had {toy.a}. It was {hero.his} [favorite toy|best thing in the world|dearest treasure]. {Hero.he} took it everywhere. <oneday>, {hero} took it {place.to}.
<here> {Hero.his} [{grown.bare}|{grown.bare}] had given {hero.him} {thing.a}. {Hero.he} [loved it very much|carried it everywhere|was very proud of it]. +toy=thing

{Hero} [played|ran around|danced] and [laughed|sang][ until noon| for a long time|]. But then {hero.he} looked around. The {toy.bare} was gone!
[After a while|Suddenly|Then], {hero} stopped. The {toy.bare} was [gone|not there|missing]! "Oh no!" said {hero}. "Where is my {toy.bare}?"
"Oh no!" cried {hero}. "I lost my {toy.bare}!" 
But when it was time to go home, {hero} could not find the {toy.bare}. {Hero.he} was <sad>.

{Hero} was <sad>. {Hero.he} looked {spot}. It was not there. {Hero.he} looked {spot2}. It was not there either.
{Hero.he} looked {spot}[ and {spot2}|]. There was [nothing|only {small.a}|only a stone|no {toy.bare}].
First, {hero} looked {spot}. Then {hero.he} looked {spot2}. No {toy.bare}!
{Hero.he} looked up and down. {Hero.he} looked {spot}. {Hero.he} even looked {spot2}. But the {toy.bare} was nowhere.

--
[Just then|Then|Soon], {friend.intro} came by. "[Why are you sad|What is wrong|What are you looking for]?" asked {friend}. "I [can't find|lost] my {toy.bare}," said {hero}. "[I will help you|Let us look together|Don't worry, we will find it]," said {friend} <softly>.
{Friend.intro} saw {hero} and came closer. "Can I help you?" {friend.he} asked. "Yes, please," said {hero}. "My {toy.bare} is gone."
[Just then|Then|Soon], {friend.intro} came along. "Don't cry," said {friend}. "Tell me what you lost." "It is my {toy}," said {hero}. "[It was a gift|I love it so much|I had it this morning]."

They [looked|searched] together. "[Where did you play|Where were you last|Think. Where did you go first]?" asked {friend}. {Hero} thought for a moment. "I was {spot3}!" 
So they [looked everywhere|walked back the same way|searched together]. {Friend} looked {spot3}. "[Look|Come here|I see something {toy.color}]!" {friend.he} called.
They walked slowly and looked at every [stone and flower|corner|leaf]. Then {friend} saw something {toy.color} {spot3}.
{Friend} had a good [nose|eye|idea]. {Friend.he} went straight to look {spot3}.

And there it was! The {toy.bare} was {spot3}[, safe and sound| all the time|].
[There was|They found] the {toy.bare}! It was a little dirty, but it was not broken.
The {toy} was right there. {Small.a} was sitting on it! 
And there was the {toy.bare}, {spot3}.

{Hero} [hugged {friend}|jumped for joy|was <happy>]. "Thank you, {friend.call}!" {hero.he} said. "[You are a true friend|You are so kind|I could not do it without you]." 
"Thank you!" said {hero} <loudly>. "You are very kind." "[That is what friends are for|I like to help|You are welcome]," said {friend}.
{Hero} was <happy>. {Hero.he} [let {friend} play with the {toy.bare}|gave {friend} a big hug|shared {food.a} with {friend}].

?
Then they played together until [the sun went down|it was time to go home|evening].
From then on, {hero} and {friend} were [good|best] friends.
<moral>
<moral>
{Hero} [put the {toy.bare} in a safe place|held the {toy.bare} tight all the way home|never lost the {toy.bare} again].
<bedtime>
